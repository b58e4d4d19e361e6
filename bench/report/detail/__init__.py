"""What stands behind the numbers of a table: learning curves, costs, strata, single rows, lists, other candidates."""
