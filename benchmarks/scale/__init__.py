"""What very many images cost: measured on made-up sets of that size."""
