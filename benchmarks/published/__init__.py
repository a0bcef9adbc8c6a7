"""The published configurations, and what they come to under stated assumptions."""
