"""The search for each variant's learning rate and weight decay, on equal budgets."""
