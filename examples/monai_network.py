"""A network of MONAI as the calibration network: it takes the place of ours and is trained.

pip install monai
stochseg prepare ambiguous --out stores/ambiguous
python examples/monai_network.py --data stores/ambiguous --out runs/monai --steps 500
"""

import argparse

from monai.networks.nets import UNet

import stochseg

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--steps", type=int, default=500)
given = parser.parse_args()

network = UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(16, 32, 64), strides=(2, 2), num_res_units=2)
model = stochseg.CAR(classes=2, channels=1, size=(64, 64), calibration=network, config="demo")
run = stochseg.train(model, given.data, out=given.out, config="demo", steps=given.steps)

result = stochseg.evaluate(run, given.data, "val", calibration=network)  # the module is code: give it again
print(f"GED {result['ged']:.3f}, of the likeliest map {result['baselines']['argmax']['ged']:.3f}")
