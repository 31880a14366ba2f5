package source

// Progress says how far a conversion is.
type Progress struct {
	Layer, Layers int   // the layer at work, from 0, and how many there are
	Read, Size    int64 // bytes of the source blob read, and to read
	Written       int64 // bytes written to the layer so far, before compression
	BlobSize      int64 // bytes of the converted blob once the layer is done, else 0
}
