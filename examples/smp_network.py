"""A network of segmentation-models-pytorch as the calibration network: it takes the place of ours and is trained.

pip install "stochseg[zoo]"
stochseg prepare ambiguous --out stores/ambiguous
python examples/smp_network.py --data stores/ambiguous --out runs/smp --steps 500
"""

import argparse

import segmentation_models_pytorch as smp

import stochseg

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--steps", type=int, default=500)
given = parser.parse_args()

network = smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=2)  # images [b 1 h w] -> logits [b 2 h w]
model = stochseg.CAR(classes=2, channels=1, size=(64, 64), calibration=network, config="demo")
run = stochseg.train(model, given.data, out=given.out, config="demo", steps=given.steps)

result = stochseg.evaluate(run, given.data, "val", calibration=network)  # the module is code: give it again
print(f"GED {result['ged']:.3f}, of the likeliest map {result['baselines']['argmax']['ged']:.3f}")
