"""The parts of tools/train.py: the model, its data, the optimizers and the loop. PyTorch is an extra."""
