"""Figures of arrays as SVG that is readable on light and dark pages; nothing here knows a model."""
