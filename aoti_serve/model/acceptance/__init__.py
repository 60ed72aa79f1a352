"""What staged weights must do rightly before they are committed."""
