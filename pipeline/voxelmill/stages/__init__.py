"""What a run makes of its cases, one folder a stage, in the order that data flow."""
