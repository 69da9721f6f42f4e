"""A longer tool-using agent: eight desks in a row, and only the end says whether all went right."""
