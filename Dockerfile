# zscgan-quantize in a container. Untested: no Docker daemon was there where it was written.
#
#   docker build -t zscgan .                            on a CPU
#   docker build -t zscgan-gpu --build-arg EXTRA=gpu .  with the CUDA libraries, for --gpus=all
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" zscgan \
#       model.keras --output=model.tflite --preprocessing=unit
#
# The model is read from the folder that is mounted as /work, and the file is written there.
FROM python:3.11-slim

# Of setup.py, such as gpu.
ARG EXTRA=

COPY . /source
RUN pip install --no-cache-dir "/source${EXTRA:+[$EXTRA]}" && rm -r /source

# Any user may run it, one without a home too: caches go here.
ENV HOME=/tmp
RUN useradd --no-create-home zscgan && install -d -o zscgan /work
USER zscgan
WORKDIR /work

ENTRYPOINT ["zscgan-quantize"]
CMD ["--help"]
