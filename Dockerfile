# nnU-Net with CPR.  docker build -t nnunet-cpr .   then, for instance:
#   docker run --rm -v $PWD/demo:/results/demo nnunet-cpr nnunet-cpr demo
#   docker run --rm --gpus all --shm-size 8g -v /data:/data -e nnUNet_raw=/data/raw -e nnUNet_preprocessed=/data/preprocessed \
#     -e nnUNet_results=/data/results nnunet-cpr nnUNetv2_train 4 3d_fullres 0 -tr nnUNetTrainerCPR
# Not built yet: where this was written there was no container engine.
FROM python:3.11-slim
# A C compiler: the kernels for CPUs are compiled when they are first used.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE nnunet_cpr.pth /src/
COPY nnunet_cpr /src/nnunet_cpr
RUN pip install --no-cache-dir '/src[demo,surface,batch]' && nnunet-cpr trainers nnUNetTrainerCPR
WORKDIR /results
CMD ["nnunet-cpr", "demo"]
