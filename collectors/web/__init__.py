"""What listens: the control socket."""
