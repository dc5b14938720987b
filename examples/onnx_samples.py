"""Samples of an 8 bit image with onnxruntime alone: neither torch nor stochseg is needed.

stochseg export runs/lidc --format onnx
python examples/onnx_samples.py runs/lidc/export/model.onnx scan.png --samples 8 --out samples.png
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("model")
parser.add_argument("image")
parser.add_argument("--samples", type=int, default=8)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", default="samples.png")
given = parser.parse_args()

session = onnxruntime.InferenceSession(given.model)
facts = json.loads(session.get_modelmeta().custom_metadata_map["stochseg"])
picture = Image.open(given.image).convert("L" if facts["channels"] == 1 else "RGB")
pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1).transpose(2, 0, 1)
z = np.random.default_rng(given.seed).standard_normal((1, given.samples, facts["latent"]), np.float32)

(maps,) = session.run(["maps"], {"images": pixels[None] / 127.5 - 1, "z": z})  # int64 [1 n h w]

colors = np.array([c["color"] for c in facts["classes"]], np.uint8)
Image.fromarray(colors[np.hstack(maps[0])]).save(given.out)
for number, info in enumerate(facts["classes"]):
    print(f"{info['name']}: {(maps[0] == number).sum((1, 2)).tolist()} pixels")
