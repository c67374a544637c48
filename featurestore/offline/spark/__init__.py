"""The engine for logs and entity frames that outgrow a machine: everything that talks to Spark."""
