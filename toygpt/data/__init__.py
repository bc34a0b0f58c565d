"""Text becomes batches of token ids."""
