"""What this process knows about revocations. Nothing here touches a socket."""
