"""The page of `demo`: videos that may be shown, the line for the devices, answers as HTML, Gradio around them."""
