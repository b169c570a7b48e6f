"""Networks, the loop that trains them, what a method is handed, and what it costs."""
