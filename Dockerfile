# docker build -t rapid-finetune .                            for a CPU
# docker build -t rapid-finetune --build-arg DEVICE=cuda .    for NVIDIA GPUs
# docs/install.md says how to run it and how large it is.

FROM python:3.11-slim AS wheel
ARG DEVICE=cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY recipes recipes
COPY toolkit toolkit
COPY export export
# On a CPU: the onnxruntime without CUDA, which is a package of another name.
RUN if [ "$DEVICE" = cpu ]; then \
        sed -i -e 's/onnxruntime-gpu\[cuda,cudnn\]/onnxruntime/' -e 's/^onnxruntime-gpu==/onnxruntime==/' \
            pyproject.toml constraints.txt; \
    fi
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ARG DEVICE=cpu
COPY --from=wheel /wheels /src/constraints.txt /tmp/install/
# On a CPU: torch without CUDA, from PyTorch's own index; what is installed already is not installed again.
RUN if [ "$DEVICE" = cpu ]; then \
        pip install --no-cache-dir --constraint /tmp/install/constraints.txt \
            --index-url https://download.pytorch.org/whl/cpu torch torchvision; \
    fi
RUN pip install --no-cache-dir --constraint /tmp/install/constraints.txt "$(ls /tmp/install/*.whl)[serve]"
RUN useradd --create-home --uid 1000 user && install --directory --owner user /work
USER user
WORKDIR /work
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["rapid-finetune"]
CMD ["--help"]
