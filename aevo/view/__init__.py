"""What people see: status, failures, traces, the dry run, the report."""
