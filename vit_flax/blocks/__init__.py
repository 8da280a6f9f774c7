"""Parts shared by three or more models, one concept a file."""
