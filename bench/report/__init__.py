"""What people read: which runs stand together, their comparison, tables."""
