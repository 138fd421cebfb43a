"""Docker images, containers, remote machines and browsers."""
