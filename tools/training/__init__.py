"""What tools/train.py is made of: the model, its data, the optimizers, the loop. PyTorch is an extra."""
