"""Strided 1×1 convolutions as what they are: a slice, and a convolution of stride 1.

Without AVX-512, oneDNN's kernel for the weight gradient of such a convolution (`jit_1x1:avx2` with
its copy to unit stride) writes outside its memory where float32 images lie in channels-last and
have 2 to 6 channels: PyTorch 2.13 and 2.14 corrupt the heap and die later, or compute on.
`tests/autodiff/test_unit_stride.py` holds the smallest reproduction. The slice is exact and as fast.
"""

from torch import Tensor
from torch.nn import functional


def conv2d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`."""
    x, stride = sliced(x, kernel, stride, padding)
    return functional.conv2d(x, kernel, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    dilation: int | tuple[int, ...] = 1,
) -> Tensor:
    """`torch.nn.functional.conv_transpose2d`."""
    if not is_strided_point(kernel, stride):
        return functional.conv_transpose2d(
            x, kernel, bias, stride, padding, output_padding, groups, dilation
        )
    n_inputs, n_outputs = kernel.shape[:2]
    grouped = kernel.reshape(groups, n_inputs // groups, n_outputs, 1, 1).transpose(1, 2)
    y = functional.conv2d(x, grouped.reshape(-1, n_inputs // groups, 1, 1), groups=groups)
    for dim, step, cut, added in zip((-2, -1), pair(stride), pair(padding), pair(output_padding)):
        # Zeros between the entries, then the part that the paddings leave.
        length = (y.shape[dim] - 1) * step + 1 + added - 2 * cut
        after = (0, 0) * (-1 - dim) + (0, step - 1)
        y = functional.pad(y.unsqueeze(dim % y.ndim + 1), after).flatten(dim - 1, dim)
        y = y.narrow(dim, cut, length)
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def sliced(
    x: Tensor,
    kernel: Tensor,
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...] | str,
) -> tuple[Tensor, int | tuple[int, ...]]:
    """Input and stride of a convolution; of a 1×1 one without padding the pixels it reads, and 1."""
    unpadded = padding == "valid" if isinstance(padding, str) else pair(padding) == [0, 0]
    if not (unpadded and is_strided_point(kernel, stride)):
        return x, stride
    down, right = pair(stride)
    return x[..., ::down, ::right], 1


def is_strided_point(kernel: Tensor, stride: int | tuple[int, ...]) -> bool:
    return tuple(kernel.shape[2:]) == (1, 1) and max(pair(stride)) > 1


def pair(value: int | tuple[int, ...]) -> list[int]:
    """A number for both dimensions of an image, or one for each."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * 2 if len(numbers) == 1 else numbers
