"""Videos as features: what a frozen encoder of pictures makes of each step, kept in a file or made live."""
