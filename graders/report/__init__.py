"""Reports, all rendered from one `graders.record.Record`."""
