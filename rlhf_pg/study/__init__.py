"""What a learner looks at: exact answers, estimators, every token's credit, bugs, a doctor."""
