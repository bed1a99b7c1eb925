"""What hidden tests of several labs share. A student's release holds none of it."""
