"""Arrays as they enter: checks on the host, weights, samples, sorted cells, meshes.

Internal: nothing here is part of the public interface.
"""
