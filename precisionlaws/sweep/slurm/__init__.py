"""Sweeps on Slurm: jobs from units, their scripts, the queue, and what runs on a node.

The store is the only thing that the submitter, the jobs and whoever watches share: the submitter may die,
and so may every job.
"""
