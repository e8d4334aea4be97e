"""A shell where a kernel or job runs, or in a new container of an environment or image."""
