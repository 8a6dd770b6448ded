"""An entry point whose module cannot be imported, as after a failed upgrade."""

import a_module_that_does_not_exist  # noqa: F401
