"""What an edit costs and where its time goes."""
