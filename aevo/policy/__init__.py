"""The rolling search policy: what becomes of trials, what comes next, and the rules for it."""
