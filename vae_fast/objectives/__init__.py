"""The objective that training minimises, and the likelihood estimate of an evaluation."""
