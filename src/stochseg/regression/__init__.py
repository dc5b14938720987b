"""The paper's regression study: the objective of segmentation on numbers whose distribution is known exactly."""
