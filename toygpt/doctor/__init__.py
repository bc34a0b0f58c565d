"""`python . doctor`: is this machine, is this project healthy."""
