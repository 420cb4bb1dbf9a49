"""Token streams: what is read, how it is split, and which sequences a step sees."""
