"""The server's paths, one file a protocol; each makes a router of the service that all share."""
