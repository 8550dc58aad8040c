"""What happens to runs that are killed, starved, damaged, fed with bad files or shared, in numbers."""
