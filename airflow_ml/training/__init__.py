"""Training: Horovod ranks, the loop, checkpoints, and the built-in network. Imports torch only inside a rank."""
