"""Starting and opening a campaign: its pins, items, copies, and what is checked beforehand."""
