"""From a prompt to tokens and text: sampling, batches, beams, speculative decoding, and scores of texts."""
