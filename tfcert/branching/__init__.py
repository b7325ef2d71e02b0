"""Complete verification: a problem is split until every part is proved or a point breaks it."""
