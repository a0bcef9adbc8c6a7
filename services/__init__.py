"""The processes. Four services that meet only in `common.messages`, and the admin CLI above them."""
