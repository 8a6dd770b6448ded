"""What is asked: pictures and questions about them."""
