"""`python . doctor`: this machine, this project, and how to mend what is not well."""
