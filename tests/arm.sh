#!/usr/bin/env bash
# `make test-arm`: the kernels of 64-bit ARM (path "neon") without such a machine. They are cross-compiled, and an arm64
# Python runs some tests of them under qemu. For Debian and Ubuntu; needs no root. Everything lies in .arm/, about 1.2 GB.
#
#   tests/arm.sh [-k EXPRESSION | FILE ...]   arguments for pytest, in place of the tests below
set -euo pipefail
cd "$(dirname "$0")/.."
arm=$PWD/.arm root=$PWD/.arm/root site=$PWD/.arm/site

missing=()
for command in aarch64-linux-gnu-g++:g++-aarch64-linux-gnu qemu-aarch64:qemu-user cmake:cmake python3:python3-pip; do
  command -v "${command%:*}" >/dev/null || missing+=("${command#*:}")
done
if ((${#missing[@]})); then
  echo "tests/arm.sh needs packages that are not installed: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
pip="${PYTHON:-python3} -m pip --disable-pip-version-check --quiet"

# Python for arm64. apt works here in a folder of its own, so this machine's packages and architectures stay as they are.
if [ ! -e "$root/done" ]; then
  mkdir -p "$arm"/apt/{lists,cache/archives}/partial "$root"
  : >"$arm/apt/status"
  apt=(apt-get -qq -y -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o "APT::Sandbox::User=$(id -un)"
    -o "Dir::State=$arm/apt" -o "Dir::State::status=$arm/apt/status" -o "Dir::Cache=$arm/apt/cache")
  if grep -q '^ID=ubuntu' /etc/os-release; then  # Ubuntu keeps arm64 on another server
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    for suite in "$release" "$release-updates"; do
      echo "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://ports.ubuntu.com/ubuntu-ports $suite main"
    done >"$arm/apt/sources.list"
    apt+=(-o "Dir::Etc::sourcelist=$arm/apt/sources.list" -o Dir::Etc::sourceparts=-)
  fi
  "${apt[@]}" update
  "${apt[@]}" --no-install-recommends --download-only install python3 libpython3-dev libstdc++6 >/dev/null
  for package in "$arm"/apt/cache/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done
  touch "$root/done"
fi

# What CMake takes for Python, and what runs the tests. Paths that the root lacks are those of this machine.
cat >"$arm/python" <<END
#!/bin/sh
QEMU_LD_PREFIX=$root exec qemu-aarch64 $root/usr/bin/python3 "\$@"
END
chmod +x "$arm/python"

# 2.10 is the last PyTorch whose wheel for arm64 on PyPI is without CUDA. Dependencies are written out, since pip would
# take those that PyTorch has on this processor.
if [ ! -e "$site/done" ]; then
  version=$("$arm/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  $pip install --target "$site" --upgrade --no-deps --only-binary :all: --python-version "$version" \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    torch==2.10.0 filelock fsspec jinja2 markupsafe mpmath networkx sympy typing_extensions \
    numpy scipy hypothesis sortedcontainers pytest iniconfig packaging pluggy pygments
  $pip install --target "$arm/nanobind" --upgrade nanobind
  touch "$site/done"
fi

cmake -S . -B "$arm/build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -Dnanobind_DIR="$arm/nanobind/nanobind/cmake" \
  -DPython_EXECUTABLE="$arm/python" -DPython_INCLUDE_DIR="$(echo "$root"/usr/include/python3.*)" \
  -DCMAKE_CXX_FLAGS="-Wall -idirafter $root/usr/include" >"$arm/cmake.log"
cmake --build "$arm/build" --parallel "$(nproc)"

# The sources and the new extension side by side, so that .so files of this machine are not in the way.
rm -rf "$arm/tree"
mkdir "$arm/tree"
cp -r pyproject.toml src tests "$arm/tree"
rm -f "$arm"/tree/src/argumbel/kernels/cpu/_cpu.*
cp "$arm"/build/_cpu.*.so "$arm/tree/src/argumbel/kernels/cpu/"
cd "$arm/tree"

export PYTHONPATH=$arm/tree/src:$site ARGUMBEL_KERNELS=neon OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
test_arm() { "$arm/python" -m pytest -p no:cacheprovider "$@"; }

if (($#)); then
  test_arm "$@"
  exit
fi
# Draws that must not change; then kernels and reference, to the bit where the contract says so.
test_arm tests/test_golden.py
test_arm tests/test_kernels.py -k "noise_is_the_reference or refined or to_the_bit or ties or topk_of_everything"
test_arm tests/test_sums.py tests/test_structures_{arborescence,chain,spans,subset}.py -k "kernel or golden"
