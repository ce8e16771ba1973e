"""rlhf_pg: the policy gradient of 1992 and the RLHF of today are the same update."""
