"""The course's manifest, lectures and labs."""
