"""The paper's statements as executable, property-tested claims."""
